module interop

go 1.24

require github.com/centrifugal/centrifuge-go v0.12.1
