package compare

import (
	"fmt"
	"io"
)

// serveUpstream prints where the upstream listens and runs it until the process
// is ended.
func serveUpstream(s shape, out io.Writer) error {
	u := newUpstream(s)
	addr, err := u.open()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, addr); err != nil {
		return err
	}
	return u.run()
}
