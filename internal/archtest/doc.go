// Package archtest holds no code, only tests: they keep the promises that the
// repository makes about itself as a whole.
//
//   - imports_test.go: who may import whom (style.md, section 2);
//   - packages_test.go: package comments, READMEs, length of files;
//   - habits_test.go: what tests never do (sleep, skip, fixed ports);
//   - text_test.go: nothing of one machine in tracked files.
//
// A rule holds for every package that exists, so a new package needs no entry
// here. An exception is listed beside its rule with the reason for it.
package archtest
