// Package tokens counts tokens where an upstream does not say how many it used.
//
// It uses the real byte-pair encodings of OpenAI's models, which are compiled
// in. One takes some 10 to 40 ms and 4 to 7 MB when it is first needed, never
// before; counting runs at about 2 MB/s. Models of other makers have encodings
// of their own: theirs are counted in Default, and [For] says that it is not
// theirs, so that the count is called an estimate.
package tokens
