package meter

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxPaths = 16 // of one set; they are the bits of a mask
	maxDepth = 16 // of a path
	maxKey   = 64 // bytes of a key of a path
)

// each is the segment that stands for every element of a list.
const each = "#"

// mode is what is taken of the value a path leads to.
type mode uint8

const (
	number     mode = iota // the number itself
	elements               // how many elements the list has
	characters             // how many characters the text, or the texts of the list, have
)

type path struct {
	keys []string
	mode mode
	many bool // a segment is each: what is found is added up
}

// parsePath reads a path.
func parsePath(text string, m mode) (path, error) {
	if text == "" {
		return path{}, errors.New("must not be empty")
	}
	p := path{keys: strings.Split(text, "."), mode: m}
	if len(p.keys) > maxDepth {
		return path{}, fmt.Errorf("must have at most %d keys", maxDepth)
	}
	for _, k := range p.keys {
		switch {
		case k == "":
			return path{}, errors.New("must not have empty keys: write it like usage.image_count")
		case len(k) > maxKey:
			return path{}, fmt.Errorf("must have keys of at most %d bytes", maxKey)
		case strings.ContainsAny(k, "\"\\") || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' }):
			return path{}, errors.New("must not hold quotes, backslashes or control characters")
		}
		p.many = p.many || k == each
	}
	if p.keys[0] == each {
		return path{}, errors.New("must begin with a key: answers are objects")
	}
	return p, nil
}
