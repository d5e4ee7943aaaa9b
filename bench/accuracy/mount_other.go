//go:build !linux

package accuracy

import "errors"

// smallDisk is made on Linux only.
func smallDisk(*node, int) (unmount func(), err error) {
	return nil, errors.New("a small disk to fill can be made on Linux only")
}
