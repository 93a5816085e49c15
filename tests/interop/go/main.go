// A user of centrifuge-go, as README.md of this folder describes them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

func say(line map[string]any) {
	text, _ := json.Marshal(line)
	fmt.Println(string(text))
}

func step(name string, work func() error) {
	if err := work(); err != nil {
		say(map[string]any{"step": name, "failed": err.Error()})
		return
	}
	say(map[string]any{"step": name})
}

func within(seconds int) context.Context {
	ctx, _ := context.WithTimeout(context.Background(), time.Duration(seconds)*time.Second) //nolint:govet
	return ctx
}

func wait[T any](values <-chan T, seconds int) (T, error) {
	var none T
	select {
	case value := <-values:
		return value, nil
	case <-time.After(time.Duration(seconds) * time.Second):
		return none, errors.New("nothing came")
	}
}

func greeting(data []byte) string {
	var value struct{ Hello string }
	_ = json.Unmarshal(data, &value)
	return value.Hello
}

func main() {
	count, _ := strconv.Atoi(os.Getenv("INTEROP_COUNT"))
	refreshed, once := make(chan bool), sync.Once{}
	config := centrifuge.Config{
		Token: os.Getenv("INTEROP_TOKEN"),
		GetToken: func(centrifuge.ConnectionTokenEvent) (string, error) {
			once.Do(func() { close(refreshed) })
			return os.Getenv("INTEROP_NEXT_TOKEN"), nil
		},
		MinReconnectDelay: 100 * time.Millisecond,
		MaxReconnectDelay: time.Second,
	}
	make_ := centrifuge.NewJsonClient
	if os.Getenv("INTEROP_PROTOCOL") == "protobuf" {
		make_ = centrifuge.NewProtobufClient
	}
	client := make_(os.Getenv("INTEROP_URL"), config)
	connected := make(chan bool, 100)
	client.OnConnected(func(centrifuge.ConnectedEvent) { connected <- true })
	own, err := client.NewSubscription(os.Getenv("INTEROP_CHANNEL"))
	if err != nil {
		panic(err)
	}
	subscribed := make(chan bool, 100)
	publications := make(chan string, 100)
	own.OnSubscribed(func(event centrifuge.SubscribedEvent) { subscribed <- event.Recoverable })
	own.OnPublication(func(event centrifuge.PublicationEvent) { publications <- greeting(event.Data) })

	step("connect", func() error {
		if err := client.Connect(); err != nil {
			return err
		}
		_, err := wait(connected, 10)
		return err
	})
	step("subscribe", func() error {
		if err := own.Subscribe(); err != nil {
			return err
		}
		recoverable, err := wait(subscribed, 10)
		if err == nil && !recoverable {
			err = errors.New("the subscription is not recoverable")
		}
		return err
	})
	step("publish", func() error {
		if _, err := own.Publish(within(10), []byte(`{"hello":"world"}`)); err != nil {
			return err
		}
		hello, err := wait(publications, 10)
		if err == nil && hello != "world" {
			err = errors.New("another publication came")
		}
		return err
	})
	step("history", func() error {
		found, err := own.History(within(10), centrifuge.WithHistoryLimit(10))
		if err == nil && (len(found.Publications) != 1 || greeting(found.Publications[0].Data) != "world" || found.Offset != 1) {
			err = errors.New("the publication is not in it")
		}
		return err
	})
	step("presence", func() error {
		found, err := own.Presence(within(10))
		if err != nil {
			return err
		}
		for _, one := range found.Clients {
			if one.User == os.Getenv("INTEROP_USER") {
				return nil
			}
		}
		return errors.New("the client is not there")
	})
	step("refresh", func() error {
		if _, err := wait(refreshed, 30); err != nil {
			return err
		}
		_, err := own.Presence(within(10))
		return err
	})

	storm, err := client.NewSubscription(os.Getenv("INTEROP_STORM"))
	if err != nil {
		panic(err)
	}
	numbers := make(chan int, 2*count)
	listening := make(chan bool, 100)
	storm.OnSubscribed(func(centrifuge.SubscribedEvent) { listening <- true })
	storm.OnPublication(func(event centrifuge.PublicationEvent) {
		var value struct{ N int }
		_ = json.Unmarshal(event.Data, &value)
		numbers <- value.N
	})
	if err := storm.Subscribe(); err != nil {
		panic(err)
	}
	<-listening
	say(map[string]any{"step": "ready"})
	received, ordered, seen := 0, true, map[int]bool{}
	for len(seen) < count {
		n := <-numbers
		received++
		ordered = ordered && n == received
		seen[n] = true
	}
	say(map[string]any{"step": "storm", "received": received, "distinct": len(seen), "ordered": ordered})
	client.Close()
}
