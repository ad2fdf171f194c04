"""What tests compare with, and what they run over: tables, oracles and inputs."""
