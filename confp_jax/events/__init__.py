"""Events for other programs: webhooks and MQTT, with Home Assistant's discovery."""
