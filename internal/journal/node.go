package journal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
)

// nodeState is the node's identity, kept in the file "node".
type nodeState struct {
	Journal string `json:"journal"` // random id of this journal, 32 hexadecimal digits
	Node    string `json:"node"`
	Boot    uint64 `json:"boot"`  // number of the present or last start, from 1
	Front   string `json:"front"` // folder of the fronts of that start, absolute
}

func (n *nodeState) id() (id [16]byte) {
	_, _ = hex.Decode(id[:], []byte(n.Journal))
	return id
}

// bootNode reads the node file in dir, or makes it, and makes the next boot
// durable before it is used anywhere. It returns the state with the front
// folder of the boot before.
func bootNode(dir string, opt *Options) (now, before nodeState, err error) {
	var n nodeState
	slots, err := openSlots(filepath.Join(dir, "node"), &n)
	fresh := errors.Is(err, errNoSlot)
	if err != nil && !fresh {
		return n, n, fmt.Errorf("journal: node file: %w", err)
	}
	defer slots.close()
	before = n
	switch {
	case fresh:
		n.Journal = hex.EncodeToString(random(16))
		n.Node = opt.Node
		if n.Node == "" {
			n.Node = "gw-" + hex.EncodeToString(random(5))
		}
	case opt.Node != "" && opt.Node != n.Node:
		return n, n, fmt.Errorf("journal: %s belongs to node %q, not %q: start with --node %s, or give this node a data folder of its own",
			dir, n.Node, opt.Node, n.Node)
	}
	n.Boot++
	n.Front = filepath.Join(dir, "front")
	if opt.FrontDir != "" {
		n.Front = filepath.Join(opt.FrontDir, "tollgate-"+n.Journal)
	}
	if n.Front, err = filepath.Abs(n.Front); err != nil {
		return n, n, fmt.Errorf("journal: %w", err)
	}
	if err := errors.Join(slots.set(&n), slots.sync()); err != nil {
		return n, n, fmt.Errorf("journal: write node file: %w", err)
	}
	if before.Front == "" {
		before.Front = n.Front
	}
	return n, before, nil
}

// Node returns the node's name.
func (j *Journal) Node() string { return j.node.Node }

// Boot returns the number of this start, from 1; no number is used twice.
func (j *Journal) Boot() uint64 { return j.node.Boot }

// Incarnation returns "name#boot", which names this start of this node among
// all nodes for ever.
func (j *Journal) Incarnation() string { return Incarnation(j.node.Node, j.node.Boot) }

// Incarnation returns the name of the start boot of node.
func Incarnation(node string, boot uint64) string {
	return node + "#" + strconv.FormatUint(boot, 10)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}

func randomNonce() uint64 { return binary.LittleEndian.Uint64(random(8)) }
