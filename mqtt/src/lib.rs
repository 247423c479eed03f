//! Sans-I/O codec for MQTT 3.1, 3.1.1 and 5.
