// Package process runs real servers and programs under a test: started by
// exec, their output kept and shown when the test fails, gone when the test
// ends however it ends.
//
// A program that is not installed fails the test, and the message says how to
// install it. Nothing is ever skipped for want of a server.
package process
