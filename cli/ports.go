package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// The ports lgr up takes if it is not told otherwise. Those of the second
// Doppler are dopplerStep higher, and so on.
const (
	portController      = 8081
	portControllerAdmin = 9081
	portGRPC            = 8082
	portStream          = 8083
	portDopplerAdmin    = 9082
	dopplerStep         = 10
	maxPort             = 65535
)

// upPorts are addresses on loopback.
type upPorts struct {
	controller, controllerAdmin string
	dopplers                    []dopplerPorts
}

type dopplerPorts struct{ grpc, stream, admin string }

// planPorts chooses ports; random ones are all 0.
func planPorts(dopplers, offset int, random bool) upPorts {
	at := func(port int) string {
		if random {
			port = 0
		} else {
			port += offset
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	p := upPorts{controller: at(portController), controllerAdmin: at(portControllerAdmin)}
	for i := range dopplers {
		step := i * dopplerStep
		p.dopplers = append(p.dopplers, dopplerPorts{
			grpc: at(portGRPC + step), stream: at(portStream + step), admin: at(portDopplerAdmin + step),
		})
	}
	return p
}

// check returns all ports that are taken, joined, in plain words. It is only
// for a better message: between it and the start a port may still be lost.
func (p upPorts) check(ctx context.Context) error {
	var faults []error
	look := func(addr, whose string) {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err == nil {
			l.Close()
			return
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			err = errors.New("taken by another program")
		}
		faults = append(faults, fmt.Errorf("%s for %s: %w", addr, whose, err))
	}
	look(p.controller, "the Traffic Controller")
	look(p.controllerAdmin, "its metrics")
	for i, d := range p.dopplers {
		look(d.grpc, fmt.Sprintf("producers of Doppler %d", i+1))
		look(d.stream, fmt.Sprintf("readers of Doppler %d", i+1))
		look(d.admin, fmt.Sprintf("metrics of Doppler %d", i+1))
	}
	if len(faults) > 0 {
		faults = append(faults, errors.New("another lgr up may be running; choose other ports with --port-offset 100 or --random-ports"))
	}
	return errors.Join(faults...)
}
