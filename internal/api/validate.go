package api

// Validate reports everything that is wrong with an object as a
// *ValidationError. It expects an object that Default has completed.
func (r *Registry) Validate(obj Object) error {
	var c checker
	d, err := r.definitionOf(obj)
	if err != nil {
		c.missing("kind", "%v", err)
		return c.err("")
	}
	key := Key{Kind: d.info.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	c.metadata(d, obj)
	if d.validate != nil {
		d.validate(&c, obj)
	}
	return c.err(key.String())
}

func (c *checker) metadata(*definition, Object) {}
