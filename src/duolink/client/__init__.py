"""The client: an asyncio driver, thin over the machines of `duolink.protocol`."""
