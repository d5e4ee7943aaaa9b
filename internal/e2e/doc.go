// Package e2e tests the real binary from the outside, as its users meet it:
// started with the demo marketplace, called by the OpenAI SDKs for Node.js and
// Go, by the vendor's signers for both, and by curl; killed, restarted, cut
// from its stores. It knows the program only through the contract in
// design.md, section 5.
//
// Scripts for Node.js and the npm packages they use are under
// testdata/clients.
package e2e
