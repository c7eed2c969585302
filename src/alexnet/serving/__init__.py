"""A page in the browser and the service behind it: `alexnet serve`."""
