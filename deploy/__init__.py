"""Deploy: firmware, clusters."""
