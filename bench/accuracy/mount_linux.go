package accuracy

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// smallDisk puts the data folder of a node that does not run yet on a tmpfs of
// its own, of that many bytes. Who may not mount has the node do it, in a mount
// namespace of its own.
func smallDisk(n *node, size int) (unmount func(), err error) {
	options := "mode=0700,size=" + strconv.Itoa(size)
	err = unix.Mount("tollgate-trial", n.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
	if err == nil {
		return func() { _ = unix.Unmount(n.dir, unix.MNT_DETACH) }, nil // a mount that stays ends with the machine
	}
	if !errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("a small tmpfs cannot be mounted: %w", err)
	}
	unshare := []string{"unshare", "--user", "--map-root-user", "--mount", "--"}
	if text, terr := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); terr != nil {
		return nil, fmt.Errorf("a small tmpfs cannot be mounted, neither here (%w) nor in a namespace of its own (%s): run as root, or in a container with CAP_SYS_ADMIN", err, firstOf(string(text), terr))
	}
	const mount = `mount -t tmpfs -o "$0" tollgate-trial "$1" && shift && exec "$@"`
	n.wrap = append(unshare, "sh", "-c", mount, options, n.dir)
	n.hidden = true
	return func() {}, nil // it ends with the node
}

// firstOf returns a program's own words on its failure, or the error.
func firstOf(text string, err error) string {
	if text != "" {
		return oneLine(errors.New(text))
	}
	return err.Error()
}
