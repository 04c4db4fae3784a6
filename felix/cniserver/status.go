package cniserver

import "tortie/internal/control/cniwire"

// status answers STATUS: nil when an ADD could be served now.
func (s *Server) status() error {
	reason := ""
	if err := s.Ready(); err != nil {
		reason = err.Error()
	} else if err := s.health(); err != nil {
		reason = "felix on node " + s.node + " is without its datastore: " + err.Error()
	} else if !s.state.HasNode() {
		reason = "there is no Node resource named " + s.node + "; create it, or start felix with NODENAME set to the name it has"
	} else if !s.state.HasPool() {
		reason = "there is no enabled IP pool for workloads; create one with: calicoctl create -f <IPPool manifest>"
	}
	if reason == "" {
		return nil
	}
	return &cniwire.Error{Code: cniwire.CodeNotAvailable, Msg: reason}
}
