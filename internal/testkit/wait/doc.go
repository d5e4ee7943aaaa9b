// Package wait holds the one way tests wait: ask again until the answer is
// right, within a time limit. Tests never sleep for a guessed time, which is
// too short on a busy machine and too long on an idle one.
package wait
