package journal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
)

// nodeState is the node's identity, kept in the file "node".
type nodeState struct {
	Journal string `json:"journal"` // random id of this journal, 32 hexadecimal digits
	Node    string `json:"node"`
	Boot    uint64 `json:"boot"`            // number of the present or last start, from 1
	Front   string `json:"front,omitempty"` // folder of the fronts of that start, absolute; empty: beside the segments
}

// fronts returns the folder of the fronts of the journal in dir.
func (n *nodeState) fronts(dir string) string {
	if n.Front != "" {
		return n.Front
	}
	return filepath.Join(dir, "front")
}

func (n *nodeState) id() (id [16]byte) {
	_, _ = hex.Decode(id[:], []byte(n.Journal))
	return id
}

// listFronts returns the fronts of the journal in dir: where the node file
// says, and beside the segments, where a person puts them who moves a journal
// to another host.
func (n *nodeState) listFronts(dir string) (map[uint64]string, error) {
	all, err := listNumbered(n.fronts(dir), ".front")
	if err != nil || n.Front == "" {
		return all, err
	}
	beside, err := listNumbered(filepath.Join(dir, "front"), ".front")
	if all == nil {
		return beside, err
	}
	maps.Copy(all, beside)
	return all, err
}

// ownFronts is listFronts for a start, which removes the fronts it has copied
// out. A copy of a journal must not do that to the original's.
func (n *nodeState) ownFronts(dir string) (map[uint64]string, error) {
	if n.Front == "" {
		return n.listFronts(dir)
	}
	owner, err := os.ReadFile(filepath.Join(n.Front, "owner"))
	if err != nil || string(owner) == dir {
		return n.listFronts(dir)
	}
	beside := nodeState{}
	fronts, err := beside.listFronts(dir)
	if there, lerr := listNumbered(n.Front, ".front"); len(fronts) == 0 && len(there) > 0 && err == nil && lerr == nil {
		return nil, fmt.Errorf("the fronts of %s are in %s and belong to %s: move them to %s if the journal was moved, copy them if it is a copy",
			dir, n.Front, owner, filepath.Join(dir, "front"))
	}
	return fronts, err
}

// makeFronts makes the folder of the fronts and notes whose it is.
func (n *nodeState) makeFronts(dir string) error {
	if err := os.MkdirAll(n.fronts(dir), 0o700); err != nil || n.Front == "" {
		return err
	}
	return os.WriteFile(filepath.Join(n.Front, "owner"), []byte(dir), 0o600)
}

// frontsName names the folder of the fronts of one journal in one place: a
// copy of a journal gets another.
func frontsName(journal, dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "tollgate-" + journal[:16] + "-" + hex.EncodeToString(sum[:4])
}

// dropFronts removes a folder that holds no fronts any more.
func (n *nodeState) dropFronts() {
	if left, err := listNumbered(n.Front, ".front"); n.Front != "" && err == nil && len(left) == 0 {
		_ = os.Remove(filepath.Join(n.Front, "owner"))
		_ = os.Remove(n.Front)
	}
}

// bootNode reads the node file in dir, or makes it, and makes the next boot
// durable before it is used anywhere. It returns the state of this boot and
// that of the one before.
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
	n.Front = ""
	if opt.FrontDir != "" {
		if n.Front, err = filepath.Abs(filepath.Join(opt.FrontDir, frontsName(n.Journal, dir))); err != nil {
			return n, n, fmt.Errorf("journal: %w", err)
		}
	}
	if err := errors.Join(slots.set(&n), slots.sync()); err != nil {
		return n, n, fmt.Errorf("journal: write node file: %w", err)
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
