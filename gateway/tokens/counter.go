package tokens

import (
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer"
)

// Default is the encoding of models whose own is not known: that of OpenAI's
// models since GPT-4o. Other makers' differ from it by some 10 to 20 percent on
// most texts.
const Default = tokenizer.O200kBase

// Encoding is one byte-pair encoding. It is safe for concurrent use.
type Encoding struct {
	name tokenizer.Encoding
	once sync.Once
	code tokenizer.Codec
}

var (
	mu        sync.Mutex
	encodings = map[tokenizer.Encoding]*Encoding{}
)

// For returns the encoding of a model and whether it is the model's own.
func For(model string) (e *Encoding, own bool) {
	name := Default
	if i := strings.LastIndexByte(model, '/'); i >= 0 {
		model = model[i+1:] // as in openai/gpt-4o
	}
	for _, f := range families {
		if strings.HasPrefix(model, f.prefix) {
			name, own = f.encoding, true
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	e = encodings[name]
	if e == nil {
		e = &Encoding{name: name}
		encodings[name] = e
	}
	return e, own
}

// families are the beginnings of OpenAI's model names, longer ones first.
var families = []struct {
	prefix   string
	encoding tokenizer.Encoding
}{
	{"gpt-4o", tokenizer.O200kBase},
	{"gpt-4.", tokenizer.O200kBase},
	{"chatgpt-4o", tokenizer.O200kBase},
	{"gpt-5", tokenizer.O200kBase},
	{"gpt-oss", tokenizer.O200kBase},
	{"o1", tokenizer.O200kBase},
	{"o3", tokenizer.O200kBase},
	{"o4", tokenizer.O200kBase},
	{"gpt-4", tokenizer.Cl100kBase},
	{"gpt-3.5", tokenizer.Cl100kBase},
	{"gpt-35", tokenizer.Cl100kBase},
	{"text-embedding-", tokenizer.Cl100kBase},
	{"text-davinci-003", tokenizer.P50kBase},
	{"text-davinci-002", tokenizer.P50kBase},
	{"davinci-002", tokenizer.Cl100kBase},
	{"babbage-002", tokenizer.Cl100kBase},
}

func (e *Encoding) load() tokenizer.Codec {
	e.once.Do(func() {
		if c, err := tokenizer.Get(e.name); err == nil {
			e.code = c
		}
	})
	return e.code
}

// count returns the tokens of one piece. What the encoder cannot take, which
// has not been seen, is counted as four bytes to a token.
func (e *Encoding) count(text string) (n int64) {
	defer func() {
		if recover() != nil {
			n = int64(len(text)+3) / 4
		}
	}()
	c := e.load()
	if c == nil {
		return int64(len(text)+3) / 4
	}
	got, err := c.Count(text)
	if err != nil {
		return int64(len(text)+3) / 4
	}
	return int64(got)
}

const (
	// piece is how much text is kept before it is counted: so much memory, and
	// about 2 ms of work at a time.
	piece = 4 << 10
	// most is how much of one text is counted; the rest is taken to be like it.
	most = 1 << 20
)

// Counter counts the tokens of one text that comes in pieces, with bounded
// memory and work. The zero Counter counts in Default once it is Begun.
type Counter struct {
	enc     *Encoding
	held    []byte
	tokens  int64
	counted int64 // bytes in tokens
	skipped int64 // bytes beyond most
}

// Begin makes c ready to count in e.
func (c *Counter) Begin(e *Encoding) { *c = Counter{enc: e, held: c.held[:0]} }

// Begun reports whether Begin was called.
func (c *Counter) Begun() bool { return c.enc != nil }

// Add takes the next piece of the text.
func (c *Counter) Add(text string) {
	for len(text) > 0 {
		if c.counted >= most {
			c.skipped += int64(len(text))
			return
		}
		n := min(piece-len(c.held), len(text))
		c.held = append(c.held, text[:n]...)
		text = text[n:]
		if len(c.held) == piece {
			at := cut(c.held)
			c.take(at)
		}
	}
}

// take counts the first n bytes held.
func (c *Counter) take(n int) {
	c.tokens += c.enc.count(string(c.held[:n]))
	c.counted += int64(n)
	c.held = append(c.held[:0], c.held[n:]...)
}

// Total returns the tokens of the text so far, and whether all of it was
// counted.
func (c *Counter) Total() (n int64, whole bool) {
	if c.enc == nil {
		return 0, true
	}
	if len(c.held) > 0 {
		c.take(len(c.held))
	}
	n = c.tokens
	if c.skipped > 0 {
		n += c.skipped * c.tokens / max(c.counted, 1)
	}
	return n, c.skipped == 0
}

// Skip takes n bytes of text that are not looked at: they are taken to be like
// the rest.
func (c *Counter) Skip(n int64) { c.skipped += max(n, 0) }

// Empty reports whether there was no text.
func (c *Counter) Empty() bool { return c.counted == 0 && c.skipped == 0 && len(c.held) == 0 }

// cut returns where b can be cut without changing what its parts count to:
// before a single blank between two letters, where every encoding begins a new
// word. A text without one is cut at a character: a token more, at most two.
func cut(b []byte) int {
	for i := len(b) - 2; i > 0; i-- {
		if b[i] == ' ' && letter(b[i-1]) && letter(b[i+1]) {
			return i
		}
	}
	n := len(b)
	for n > len(b)-utf8.UTFMax && n > 1 && !utf8.RuneStart(b[n-1]) {
		n--
	}
	if n > 1 && b[n-1] >= utf8.RuneSelf {
		n-- // the character under way comes with the next piece
	}
	return n
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
