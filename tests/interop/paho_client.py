"""One scenario with paho-mqtt 1.x or 2.x: paho_client.py KIND HOST PORT VERSION NAME CA

Round trips at QoS 0, 1 and 2, a retained message, a session that is resumed, a Will. Exits 0 when all went well.
"""

import ssl
import sys
import threading

import paho.mqtt.client as mqtt

KIND, HOST, PORT, VERSION, NAME, CA = sys.argv[1:7]
PROTOCOL = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[VERSION]
DEADLINE = 20


class Device:
    """A client whose events can be waited for."""

    def __init__(self, name, stored=False, will=None):
        options = {"client_id": name, "protocol": PROTOCOL}
        options["transport"] = "websockets" if KIND in ("ws", "wss") else "tcp"
        if PROTOCOL != mqtt.MQTTv5:
            options["clean_session"] = not stored
        if hasattr(mqtt, "CallbackAPIVersion"):
            options["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
        self.client = mqtt.Client(**options)
        if KIND in ("mqtts", "wss"):
            self.client.tls_set(ca_certs=CA, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if KIND in ("ws", "wss"):
            self.client.ws_set_options(path="/mqtt")
        if will:
            self.client.will_set(will, "gone", qos=1)
        self.changed = threading.Condition()
        self.connected = False
        self.present = None
        self.subscribed = set()
        self.messages = []
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_subscribe = self.on_subscribe
        self.client.on_message = self.on_message
        options = {}
        if PROTOCOL == mqtt.MQTTv5:
            from paho.mqtt.packettypes import PacketTypes
            from paho.mqtt.properties import Properties

            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 60 if stored else 0
            options = {"clean_start": not stored, "properties": properties}
        self.client.connect("localhost" if KIND in ("mqtts", "wss") else HOST, int(PORT), **options)
        self.client.loop_start()
        self.wait(lambda: self.connected, "CONNACK")

    def on_connect(self, client, userdata, flags, code, *rest):
        with self.changed:
            assert code == 0, code
            self.present = flags["session present"]
            self.connected = True
            self.changed.notify_all()

    def on_disconnect(self, *arguments):
        with self.changed:
            self.connected = False
            self.changed.notify_all()

    def on_subscribe(self, client, userdata, mid, *rest):
        with self.changed:
            self.subscribed.add(mid)
            self.changed.notify_all()

    def on_message(self, client, userdata, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def wait(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(condition, DEADLINE):
                sys.exit(f"{what} did not come")

    def subscribe(self, topic, qos):
        _, mid = self.client.subscribe(topic, qos)
        self.wait(lambda: mid in self.subscribed, "SUBACK")

    def publish(self, topic, payload, qos=1, retain=False):
        sent = self.client.publish(topic, payload, qos=qos, retain=retain)
        sent.wait_for_publish()
        assert sent.is_published()

    def next(self, what):
        self.wait(lambda: self.messages, what)
        with self.changed:
            return self.messages.pop(0)

    def leave(self):
        self.client.disconnect()
        self.wait(lambda: not self.connected, "the end")
        self.client.loop_stop()


def main():
    sender = Device(NAME + "s")
    receiver = Device(NAME + "r")
    receiver.subscribe(NAME + "/#", 2)
    for qos in (0, 1, 2):
        for payload in (b"short", b"x" * 50000):
            sender.publish(f"{NAME}/{qos}", payload, qos)
            message = receiver.next(f"QoS {qos}")
            assert (message.payload, message.qos) == (payload, qos), message.qos
    sender.publish(NAME + "/kept", "kept", retain=True)
    assert receiver.next("live").retain == 0
    late = Device(NAME + "l")
    late.subscribe(NAME + "/kept", 1)
    assert late.next("retained").retain == 1
    late.leave()
    sender.publish(NAME + "/kept", "", retain=True)
    receiver.next("the removal")

    stored = Device(NAME + "q", stored=True)
    stored.subscribe(NAME + "/queue", 2)
    stored.leave()
    for number in range(20):
        sender.publish(NAME + "/queue", str(number), 1 if number < 10 else 2)
        receiver.next("live")
    stored = Device(NAME + "q", stored=True)
    if VERSION != "3.1":
        assert stored.present == 1, stored.present
    for number in range(20):
        assert stored.next("the queue").payload == str(number).encode()
    stored.leave()
    Device(NAME + "q").leave()

    doomed = Device(NAME + "d", will=NAME + "/will")
    doomed.client._sock.close()
    assert receiver.next("the Will").payload == b"gone"
    doomed.client.loop_stop()
    receiver.leave()
    sender.leave()


main()
