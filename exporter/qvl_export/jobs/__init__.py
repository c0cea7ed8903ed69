"""Jobs in processes of their own: on this machine, or on the machines of a Ray cluster."""
