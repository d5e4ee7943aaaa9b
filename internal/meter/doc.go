// Package meter reads the amounts of billing items out of requests and answers.
//
// A product says where its amounts stand (directory.Item); what every client of
// the OpenAI surface knows needs no saying (Defaults). Compile makes rules of
// both, one set for each route, and Tally applies them to JSON that comes in
// pieces of any size: it follows depth and strings, keeps no more than the
// longest key it looks for, and never the text.
//
// A path is keys joined by dots. "#" stands for every element of a list; the
// numbers found there are added up. A key that holds a dot cannot be addressed.
//
//	usage.image_count                                   a number
//	data                                  with count    how many elements
//	transcripts.#.content_duration_in_milliseconds      a sum
package meter
