package datastore

// LoadConfigAt is LoadConfig with another default path.
func LoadConfigAt(path string, getenv func(string) string) (Config, error) {
	return loadConfig(path, false, getenv)
}
