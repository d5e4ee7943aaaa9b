//go:build !linux

package listen

import "errors"

func reusePort(uintptr) error {
	return errors.New("sharing a port needs Linux: turn gateway.reuse_port off")
}

func holdBack(uintptr) {}
