// Package checkout tells tests where the checkout is that they belong to.
package checkout
