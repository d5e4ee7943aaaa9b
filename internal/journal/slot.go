package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// slotFile keeps one small value durably in a file of two slots that are
// written in turn, in place: a torn write leaves the other slot, and a full
// disk does not stop a rewrite.
//
//	slot, 512 bytes, twice:   0 8 generation   8 4 length   12 4 CRC32C   16 … JSON
type slotFile struct {
	f   *os.File
	gen uint64
}

const slotSize = 512

// errNoSlot says that neither slot holds a value.
var errNoSlot = errors.New("no valid slot")

// openSlots opens name and reads its value into v. A file that is new, or
// whose creation a crash interrupted, answers errNoSlot with a usable slotFile.
func openSlots(name string, v any) (*slotFile, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &slotFile{f: f}
	gen, err := readSlots(f, v)
	if err != nil && !errors.Is(err, errNoSlot) {
		_ = f.Close()
		return nil, err
	}
	s.gen = gen
	if err == nil {
		return s, nil
	}
	// Both slots get their room now: later writes need none.
	if _, werr := f.WriteAt(make([]byte, 2*slotSize), 0); werr != nil {
		_ = f.Close()
		return nil, werr
	}
	if serr := errors.Join(f.Sync(), syncDir(filepath.Dir(name))); serr != nil {
		_ = f.Close()
		return nil, serr
	}
	return s, err
}

// readSlots reads the newest valid slot of f into v.
func readSlots(f *os.File, v any) (uint64, error) {
	b := make([]byte, 2*slotSize)
	n, _ := f.ReadAt(b, 0)
	b = b[:n]
	var best []byte
	var gen uint64
	for i := 0; i+slotSize <= len(b); i += slotSize {
		s := b[i : i+slotSize]
		size := binary.LittleEndian.Uint32(s[8:])
		if size == 0 || size > slotSize-16 ||
			crc32.Checksum(s[16:16+size], castagnoli) != binary.LittleEndian.Uint32(s[12:]) {
			continue
		}
		if g := binary.LittleEndian.Uint64(s); best == nil || g > gen {
			best, gen = s[16:16+size], g
		}
	}
	if best == nil {
		return 0, errNoSlot
	}
	if err := json.Unmarshal(best, v); err != nil {
		return 0, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return gen, nil
}

// set writes v. It survives the death of the process when set returns, and a
// crash of the machine once sync has returned as well.
func (s *slotFile) set(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > slotSize-16 {
		return fmt.Errorf("write %s: %d bytes do not fit", s.f.Name(), len(data))
	}
	b := make([]byte, slotSize)
	binary.LittleEndian.PutUint64(b, s.gen+1)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(data)))
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(data, castagnoli))
	copy(b[16:], data)
	if _, err := s.f.WriteAt(b, int64((s.gen+1)%2)*slotSize); err != nil {
		return err
	}
	s.gen++
	return nil
}

func (s *slotFile) sync() error  { return datasync(s.f) }
func (s *slotFile) close() error { return s.f.Close() }
