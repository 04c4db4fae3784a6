package etcd_test

import (
	"os"
	"testing"

	"tortie/internal/datastore/etcd/etcdtest"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }
