// Package node runs scripts under Node.js with the npm packages that the
// end-to-end tests use: the OpenAI SDK and the vendor's SDK core. The packages
// are pinned by package-lock.json in internal/e2e/testdata/clients and
// installed there by `make setup`; without them, or without Node.js 18 or
// later, the test fails.
package node
