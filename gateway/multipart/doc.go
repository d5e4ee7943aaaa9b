// Package multipart reads the small fields of a multipart/form-data body while
// it passes by, without keeping the files in it.
//
// It tells where the value of a field stands, so that it can be replaced and
// every other byte sent on as it came. It is strict where readers differ: a
// field that could be read in two ways is an error.
package multipart
