// Package quotatest is the behaviour suite of quota stores: what every backend
// must do, alone and under engines. Backends call [Run] from their tests.
package quotatest
