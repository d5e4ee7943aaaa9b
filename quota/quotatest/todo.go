package quotatest

import "testing"

func testProtocol(t *testing.T, b Backend)   {}
func testGrants(t *testing.T, b Backend)     {}
func testThresholds(t *testing.T, b Backend) {}
func testAdmission(t *testing.T, b Backend)  {}
func testNodes(t *testing.T, b Backend)      {}
func testPeriods(t *testing.T, b Backend)    {}
