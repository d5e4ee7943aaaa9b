//go:build !linux

package accuracy

import "errors"

// mountDisk mounts a small disk on dir, which is done on Linux only.
func mountDisk(string, int) (unmount func(), err error) {
	return nil, errors.New("this system has no tmpfs")
}
