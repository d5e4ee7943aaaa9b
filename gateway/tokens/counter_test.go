package tokens

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tiktoken-go/tokenizer"
)

// TestFor: which encoding a model has, and whether it is known to be its own.
func TestFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		model string
		want  tokenizer.Encoding
		own   bool
	}{
		{"gpt-4o-mini", tokenizer.O200kBase, true},
		{"openai/gpt-4.1", tokenizer.O200kBase, true},
		{"o3-pro", tokenizer.O200kBase, true},
		{"gpt-4-turbo", tokenizer.Cl100kBase, true},
		{"gpt-3.5-turbo", tokenizer.Cl100kBase, true},
		{"text-embedding-3-small", tokenizer.Cl100kBase, true},
		{"deepseek-chat", Default, false},
		{"qwen3", Default, false},
		{"", Default, false},
	} {
		e, own := For(tt.model)
		if e.name != tt.want || own != tt.own {
			t.Errorf("%s: %s %v, want %s %v", tt.model, e.name, own, tt.want, tt.own)
		}
		if again, _ := For(tt.model); again != e {
			t.Errorf("%s: two encodings were made", tt.model)
		}
	}
}

// TestCounts: figures published for the encodings, and pieces as the whole.
func TestCounts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		model, text string
		want        int64
	}{
		{"gpt-4", "tiktoken is great!", 6},
		{"gpt-4o", "tiktoken is great!", 6},
		{"gpt-4", "antidisestablishmentarianism", 6},
		{"gpt-4", "2 + 2 = 4", 7},
		{"gpt-4o", "2 + 2 = 4", 7},
		{"gpt-4", "お誕生日おめでとう", 9},
		{"gpt-4o", "お誕生日おめでとう", 8},
		{"gpt-4", "", 0},
	} {
		e, _ := For(tt.model)
		var c Counter
		c.Begin(e)
		c.Add(tt.text)
		if got, whole := c.Total(); got != tt.want || !whole {
			t.Errorf("%s by %s: %d, want %d", tt.text, tt.model, got, tt.want)
		}
	}
}

func FuzzCounter(f *testing.F) {
	f.Add("Every call is counted once; 余额不足 don't  \n\n 12345 x", uint64(1), 400)
	f.Add(strings.Repeat("a", 50), uint64(2), 300)
	f.Add(" \xff\xfe", uint64(3), 4000)
	f.Fuzz(func(t *testing.T, text string, seed uint64, times int) {
		long := strings.Repeat(text, max(0, min(times, 20_000/max(len(text), 1))))
		e, _ := For("")
		var whole, pieces Counter
		whole.Begin(e)
		whole.Add(long)
		pieces.Begin(e)
		rnd := rand.New(rand.NewPCG(seed, 1))
		for rest := long; rest != ""; {
			n := 1 + rnd.IntN(len(rest))
			pieces.Add(rest[:n])
			rest = rest[n:]
		}
		a, _ := whole.Total()
		b, _ := pieces.Total()
		if a != b {
			t.Fatalf("%d whole, %d in pieces", a, b)
		}
		// Cutting the text costs little, and nothing where it has words.
		exact := e.count(long)
		if cuts := int64(len(long)/piece + 1); a < exact-3*cuts || a > exact+3*cuts {
			t.Errorf("%d bytes: %d, the encoder says %d", len(long), a, exact)
		}
	})
}

// TestWordsAreExact: text with words in it counts as if it had come at once.
func TestWordsAreExact(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("Every call is counted once and no unit is sold twice, don't you know; 余额不足 $12.50\n\n", 800)
	e, _ := For("gpt-4o")
	var c Counter
	c.Begin(e)
	for rest := text; rest != ""; rest = rest[min(len(rest), 7):] {
		c.Add(rest[:min(len(rest), 7)])
	}
	if got, _ := c.Total(); got != e.count(text) {
		t.Errorf("%d, the encoder says %d", got, e.count(text))
	}
}

// TestBounds: an endless text costs bounded memory and work.
func TestBounds(t *testing.T) {
	t.Parallel()
	e, _ := For("")
	var c Counter
	c.Begin(e)
	line := strings.Repeat("some words here ", 64<<10/16)
	for range 64 << 20 / len(line) {
		c.Add(line)
	}
	n, whole := c.Total()
	if whole || cap(c.held) > 2*piece || c.counted > most+piece {
		t.Errorf("whole %v, %d bytes held, %d counted", whole, cap(c.held), c.counted)
	}
	if want := int64(64<<20) * 3 / 16; n < want*95/100 || n > want*105/100 {
		t.Errorf("%d tokens, want about %d", n, want)
	}
}

func BenchmarkCounter(b *testing.B) {
	e, _ := For("gpt-4o")
	text := strings.Repeat("Every call is counted once and no unit is sold twice; ", 100)
	e.count(text)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		var c Counter
		c.Begin(e)
		c.Add(text)
		c.Total()
	}
}
