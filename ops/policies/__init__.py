"""What no change of the platform may do: a policy pack for the engine, and rules for its plans.

`pulumi preview --policy-pack policies` runs the pack (docs/policies.md says what each rule is for).
`ops.policies.steps` holds what can only be seen in a plan, where old and new are side by side.
"""
