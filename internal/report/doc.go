// Package report draws usage as one HTML file: tables, and charts as SVG made
// here, in Chinese or English. The file refers to nothing outside itself, so it
// can be mailed and kept.
package report
