package compare

import (
	"os"
	"runtime"
	"strings"
)

// Machine is where a comparison ran.
type Machine struct {
	CPU    string            `json:"cpu"`
	Cores  int               `json:"cores"`
	Kernel string            `json:"kernel"`
	Go     string            `json:"go"`
	OS     string            `json:"os"`
	Load   string            `json:"load_average"` // when it began
	Tools  map[string]string `json:"tools,omitempty"`
}

func describeMachine() Machine {
	m := Machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS, Tools: map[string]string{}}
	for line := range strings.Lines(readText("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	m.Kernel = strings.TrimSpace(readText("/proc/sys/kernel/osrelease"))
	m.Load = strings.Join(strings.Fields(readText("/proc/loadavg"))[:min(3, len(strings.Fields(readText("/proc/loadavg"))))], " ")
	return m
}

// readText is a file's text, empty where it cannot be read: a description of
// the machine may lack a line.
func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}
