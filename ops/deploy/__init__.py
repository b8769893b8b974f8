"""Layer Deployment: a plan that was reviewed, and nothing but it, is carried out on a stack."""
