package accuracy

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// mountDisk mounts a tmpfs of that many bytes on dir.
func mountDisk(dir string, size int) (unmount func(), err error) {
	if err := unix.Mount("tollgate-trial", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size="+strconv.Itoa(size)); err != nil {
		return nil, err
	}
	return func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }, nil // a mount that stays ends with the machine
}
