/* The table of port types: a new type is its own file and one line in each list here. */
#include <string.h>

#include "port.h"

extern const struct port_ops port_af_packet_ops;
extern const struct port_ops port_af_xdp_ops;
extern const struct port_ops port_client_ops;
extern const struct port_ops port_memory_ops;
extern const struct port_ops port_monitor_ops;
extern const struct port_ops port_netmap_ops;
extern const struct port_ops port_null_ops;
extern const struct port_ops port_pcap_ops;
extern const struct port_ops port_pipe_ops;
extern const struct port_ops port_tap_ops;
extern const struct port_ops port_tun_ops;
extern const struct port_ops port_udp_ops;
extern const struct port_ops port_vale_nic_ops;
extern const struct port_ops port_vxlan_ops;

static const struct port_ops *const port_types[] = {
    &port_af_packet_ops, &port_af_xdp_ops, &port_client_ops,   &port_memory_ops, &port_monitor_ops,
    &port_netmap_ops,	 &port_null_ops,   &port_pcap_ops,     &port_pipe_ops,	 &port_tap_ops,
    &port_tun_ops,	 &port_udp_ops,	   &port_vale_nic_ops, &port_vxlan_ops,
};

enum { PORT_TYPES = sizeof(port_types) / sizeof(port_types[0]) };

const struct port_ops *port_type_find(const char *type)
{
	for (unsigned i = 0; i < PORT_TYPES; i++) {
		if (strcmp(port_types[i]->type, type) == 0)
			return port_types[i];
	}
	return NULL;
}

void port_prepare(void)
{
	for (unsigned i = 0; i < PORT_TYPES; i++) {
		if (port_types[i]->prepare)
			port_types[i]->prepare();
	}
}

const char *const *port_type_names(void)
{
	static const char *names[PORT_TYPES + 1];

	for (unsigned i = 0; i < PORT_TYPES; i++)
		names[i] = port_types[i]->type;
	return names;
}
