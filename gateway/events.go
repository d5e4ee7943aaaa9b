package gateway

import (
	"bytes"
	"slices"

	"github.com/tidwall/gjson"
)

// eventParser is the part of a relay that takes a stream of server-sent events
// apart. A line ends with CR, LF or both, as the grammar of event streams has
// it. It does not matter where the bytes were cut.
type eventParser struct {
	strip bool   // drop the usage chunk the client did not ask for
	alias string // written over the model's name in events; empty: nothing is
	out   []byte // to be delivered
	line  []byte // line under way
	cut   bool   // the line under way is too long: its beginning was forgotten
	data  []byte // data of the event under way
	event []byte // raw bytes of the event under way, kept back while strip is set
	big   bool   // the event under way is too long to be looked into
	mid   bool   // bytes of the event under way were delivered
	done  bool   // the stream's own end was seen
	named bool   // the stream names its events, as the responses API does
	begun bool   // the first line was seen
	tail  tail   // what an LF at the beginning of the next bytes belongs to
}

// tail says where the LF of a CRLF goes: a line ends at its CR, because no LF
// may follow for a long time.
type tail uint8

const (
	noTail   tail = iota // the last byte was no CR
	tailKept             // to the event under way
	tailOut              // to the event that was delivered
	tailDrop             // to the event that was dropped
)

// takeTail takes the LF of a CRLF from the beginning of b.
func (r *relay) takeTail(b []byte) []byte {
	was := r.tail
	if was == noTail || len(b) == 0 {
		return b
	}
	r.tail = noTail
	if b[0] != '\n' {
		return b
	}
	switch was {
	case tailKept:
		r.keep(b[:1])
	case tailOut:
		r.out = append(r.out, '\n')
	}
	return b[1:]
}

// feed takes the next bytes and appends to out what is to be delivered. It
// returns the error of settling the call, behind which nothing is delivered, or
// errDry behind the event that used the last of the package up.
func (r *relay) feed(b []byte) error {
	lf := bytes.IndexByte(b, '\n')
	for b = r.cutTail(b, &lf); len(b) > 0; b = r.cutTail(b, &lf) {
		line := b
		if lf >= 0 {
			line = b[:lf+1]
		}
		if cr := bytes.IndexByte(line, '\r'); cr >= 0 {
			line = line[:cr+1]
		} else if lf < 0 {
			r.keep(b)
			r.addToLine(b)
			return nil
		}
		b = b[len(line):]
		if lf -= len(line); lf < 0 {
			lf = bytes.IndexByte(b, '\n')
		}
		if err := r.endLine(line, len(b)); err != nil {
			return err
		}
	}
	return nil
}

// cutTail is takeTail in a buffer whose first LF is at *lf.
func (r *relay) cutTail(b []byte, lf *int) []byte {
	rest := r.takeTail(b)
	if len(rest) < len(b) {
		*lf = bytes.IndexByte(rest, '\n')
	}
	return rest
}

// endLine takes the rest of a line, its end included; more bytes come behind.
func (r *relay) endLine(seg []byte, more int) (err error) {
	line := seg
	if len(r.line) > 0 || r.cut {
		r.addToLine(seg)
		line = r.line
	} else {
		r.limit(len(line))
	}
	end := tailKept
	switch {
	case r.cut: // the end of a line that was not looked at
		r.keep(seg)
	case isBlankLine(line):
		// The event ends here: judge it before its last byte is delivered.
		r.pending = len(r.out) + len(r.event) + len(seg) + more
		var drop bool
		if drop, err = r.dispatch(); err != nil && err != errDry {
			return err
		}
		end = tailDrop
		if !drop {
			r.keep(seg)
			r.deliver()
			end = tailOut
		}
		r.event, r.mid, r.big = trimBuffer(r.event), false, false
	case !r.big && isDoneLine(line):
		// Some clients act on this line without waiting for the blank one.
		r.done = true
		r.pending = len(r.out) + len(r.event) + len(seg) + more
		if err := r.c.settle(); err != nil {
			return err
		}
		r.keep(seg)
	default:
		r.keep(seg)
		r.takeLine(line)
	}
	r.line, r.cut, r.begun = trimBuffer(r.line), false, true
	r.tail = noTail
	if seg[len(seg)-1] == '\r' {
		r.tail = end
	}
	return err
}

// trimBuffer empties b, and gives it up when it has grown large.
func trimBuffer(b []byte) []byte {
	if cap(b) > bufferSize {
		return nil
	}
	return b[:0]
}

// keep delivers bytes of the event under way, or keeps them back where the
// whole event may have to be dropped.
func (r *relay) keep(b []byte) {
	if (r.strip || r.alias != "") && !r.big {
		r.event = append(r.event, b...)
		return
	}
	r.out = append(r.out, b...)
	r.mid = true
}

// deliver delivers the event that was kept back.
func (r *relay) deliver() {
	if r.alias != "" {
		r.event = renameEvent(r.event, r.alias)
	}
	r.out = append(r.out, r.event...)
}

// addToLine adds to the line under way. Of an event past its limit only lines
// that may be blank are kept: they end it.
func (r *relay) addToLine(b []byte) {
	if r.cut {
		return
	}
	n := len(r.line) + len(b)
	r.limit(n)
	if r.big && n > 1 {
		r.cut, r.line = true, nil
		return
	}
	r.line = append(r.line, b...)
}

// limit gives the event up when a line of n bytes takes it past its limit.
func (r *relay) limit(n int) {
	if len(r.data)+n > r.c.g.cfg.MaxEvent {
		r.giveUp()
	}
}

// giveUp stops looking into the event under way: it is delivered as it comes.
func (r *relay) giveUp() {
	if r.big {
		return
	}
	r.out = append(r.out, r.event...)
	r.event, r.data = nil, nil
	r.big, r.mid = true, true
}

// takeLine adds the payload of a data line to the event under way.
func (r *relay) takeLine(line []byte) {
	if r.big {
		return
	}
	line = bytes.TrimRight(line, "\r\n")
	if !r.begun {
		line = bytes.TrimPrefix(line, []byte("\ufeff")) // the grammar lets a stream begin with it
	}
	payload, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		r.named = r.named || bytes.HasPrefix(line, []byte("event:"))
		return
	}
	if len(payload) > 0 && payload[0] == ' ' {
		payload = payload[1:]
	}
	if len(r.data) > 0 {
		r.data = append(r.data, '\n')
	}
	r.data = append(r.data, payload...)
}

func isDoneLine(line []byte) bool {
	payload, ok := bytes.CutPrefix(line, []byte("data:"))
	return ok && string(bytes.TrimSpace(payload)) == "[DONE]"
}

// isBlankLine reports whether nothing stands before the line's end, of which a
// CRLF is only the CR.
func isBlankLine(line []byte) bool { return len(line) == 1 }

// dispatch looks into a complete event: usage is read, the stream's own end
// settles the call, what was generated is counted. It reports whether the event
// is to be dropped, and errDry when the package is used up with it.
func (r *relay) dispatch() (drop bool, err error) {
	c := r.c
	data := bytes.TrimSpace(r.data)
	defer func() { r.data = trimBuffer(r.data) }()
	if len(data) == 0 || r.big {
		return false, nil
	}
	if rep, ok := findUsage(data); ok {
		c.usage.merge(rep)
		if r.strip && isUsageChunk(data) {
			drop = true
		}
	}
	c.countEvent(data)
	c.measureEvent(data)
	if last := c.family.last(); last != nil && slices.Contains(last, gjson.GetBytes(data, "type").Str) {
		r.done = true
		return drop, c.settle()
	}
	if r.run.grows && r.run.count(c, data) && r.grow(data) {
		return drop, errDry
	}
	return drop, nil
}

// finish takes what stands behind the last blank line of a stream that ended
// regularly. It is the client's to judge whether that is an event.
func (r *relay) finish() {
	if len(r.line) > 0 && !r.cut {
		r.done = r.done || isDoneLine(r.line)
		r.takeLine(r.line)
	}
	drop, err := r.dispatch()
	if !drop && (err == nil || err == errDry) { // it has ended: there is nothing to cut
		r.deliver()
	}
	r.event = nil
}

// isUsageChunk reports whether a chunk carries nothing but the usage: choices
// is there and empty (LLM-34).
func isUsageChunk(data []byte) bool {
	choices := gjson.GetBytes(data, "choices")
	return choices.IsArray() && !choices.Get("0").Exists()
}
