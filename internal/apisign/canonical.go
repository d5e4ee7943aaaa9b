package apisign

import (
	"bytes"
	"slices"
)

// pathReading says how a client took the path when it signed.
type pathReading uint8

const (
	// pathDecoded: percent-decoded, split at "/", every segment encoded again.
	pathDecoded pathReading = iota
	// pathVerbatim: every segment encoded as it stands, "%" included.
	pathVerbatim
	// pathMixed: escapes of bytes from 0x80 up decoded, others taken as text.
	// The npm signer does this: url.parse leaves Chinese characters alone but
	// escapes blanks and the like before the signer encodes the result.
	pathMixed
)

// appendPath appends the canonical URI of a raw path: it ends in "/" whatever
// the path does.
func appendPath(dst, raw []byte, reading pathReading) []byte {
	start := len(dst)
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' && reading != pathVerbatim {
			if d, ok := unhexPair(raw, i); ok && (reading == pathDecoded || d >= 0x80) {
				c = d
				i += 2
			}
		}
		if c == '/' || unreserved[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	if len(dst) == start || dst[len(dst)-1] != '/' {
		dst = append(dst, '/')
	}
	return dst
}

// pair is one decoded query parameter within canonicaliser.text: the name is
// text[name:value], the value text[value:end].
type pair struct{ name, value, end int }

// canonicaliser holds the scratch space of the query's canonical form.
type canonicaliser struct {
	text  []byte
	pairs []pair
}

// appendQuery appends the canonical form of a raw query string: parameters
// decoded, sorted by name and then by value as bytes, and encoded again. A
// bare name gets an "=". Empty parameters ("a=1&&b=2") are skipped, as every
// parser does.
func (c *canonicaliser) appendQuery(dst, raw []byte, plusIsBlank bool) []byte {
	if len(raw) == 0 {
		return dst
	}
	c.text, c.pairs = c.text[:0], c.pairs[:0]
	for more := true; more; {
		var part []byte
		part, raw, more = bytes.Cut(raw, ampersand)
		if len(part) == 0 {
			continue
		}
		name, value, _ := bytes.Cut(part, equals)
		p := pair{name: len(c.text)}
		c.text = appendDecoded(c.text, name, plusIsBlank)
		p.value = len(c.text)
		c.text = appendDecoded(c.text, value, plusIsBlank)
		p.end = len(c.text)
		c.pairs = append(c.pairs, p)
	}
	text := c.text
	slices.SortFunc(c.pairs, func(a, b pair) int {
		if d := bytes.Compare(text[a.name:a.value], text[b.name:b.value]); d != 0 {
			return d
		}
		return bytes.Compare(text[a.value:a.end], text[b.value:b.end])
	})
	for i, p := range c.pairs {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = appendEncoded(dst, text[p.name:p.value])
		dst = append(dst, '=')
		dst = appendEncoded(dst, text[p.value:p.end])
	}
	return dst
}

var ampersand = []byte{'&'}

// appendDecoded percent-decodes src. A "%" that begins no escape stands for
// itself.
func appendDecoded(dst, src []byte, plusIsBlank bool) []byte {
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c == '%':
			if d, ok := unhexPair(src, i); ok {
				c = d
				i += 2
			}
		case c == '+' && plusIsBlank:
			c = ' '
		}
		dst = append(dst, c)
	}
	return dst
}

// appendEncoded encodes everything but the unreserved characters of RFC 3986,
// in upper-case hexadecimal.
func appendEncoded(dst, src []byte) []byte {
	for _, c := range src {
		if unreserved[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

const (
	upperHex = "0123456789ABCDEF"
	lowerHex = "0123456789abcdef"
)

var unreserved = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~" {
		t[c] = true
	}
	return t
}()

// unhexPair decodes the two digits that follow src[i].
func unhexPair(src []byte, i int) (byte, bool) {
	if i+2 >= len(src) {
		return 0, false
	}
	hi, lo := unhex(src[i+1]), unhex(src[i+2])
	return hi<<4 | lo&15, hi < 16 && lo < 16
}

// unhex returns the value of a hexadecimal digit, or 0xff.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// appendHex appends sum in lower-case hexadecimal.
func appendHex(dst, sum []byte) []byte {
	for _, c := range sum {
		dst = append(dst, lowerHex[c>>4], lowerHex[c&15])
	}
	return dst
}
