package resource

import "context"

// releaseNode TEMPORARY.
func (s *Store) releaseNode(ctx context.Context, node string) error { return nil }
