package api

// FelixRuleNames are the fields of a FelixConfiguration that have a rule.
func FelixRuleNames() []string { return sortedKeys(felixRules()) }
