// Package tollgate builds the real binary and runs it under a test: in a
// folder of its own, on ports it picks itself, with the demo marketplace. It
// relies on nothing but the contract in design.md, section 5, so whatever a
// test does through it a script can do as well.
//
//	node := tollgate.Start(t, tollgate.Options{Units: 100})
//	node.Demo.LLM.BaseURL // a product to call
//	node.Kill()           // as a power cut
//	node.Restart()        // same data, other ports
package tollgate
