package main

import (
	"os"
	"strconv"
	"strings"
)

// resetsSent returns how many segments with RST the system has sent since its start, in this network
// namespace (proc_net_snmp(5): OutRsts), or a negative number if it does not tell.
func resetsSent() int {
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return -1
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		values, ok := strings.CutPrefix(line, "Tcp:")
		if !ok {
			continue
		}
		if names == nil {
			names = strings.Fields(values)
			continue
		}
		for i, value := range strings.Fields(values) {
			if i < len(names) && names[i] == "OutRsts" {
				if n, err := strconv.Atoi(value); err == nil {
					return n
				}
			}
		}
	}
	return -1
}
