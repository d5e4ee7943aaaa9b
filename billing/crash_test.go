package billing

const crashChild = "BILLING_TEST_CRASH_CHILD"

func runCrashChild() {}
