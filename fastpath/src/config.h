/*
 * A configuration as the control thread hands it over: plain data, complete, by value. The engine
 * copies what it needs; nothing here is kept.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "policer.h"
#include "port.h"
#include "vlan.h"

/* cffi: begin */
enum { ENGINE_NO_BRIDGE = 0xffff, ENGINE_VLANS = 4096 };

struct bridge_config {
	uint16_t id;
	bool vlan_filtering;
	bool learning;
	bool flood_unknown_unicast;
	bool flood_multicast;
	bool flood_broadcast;
	bool reserved_forward; /* forward 01:80:c2:00:00:0x, and what no station sent, instead of
				  dropping them */
	uint32_t ageing_s;     /* 0: entries never age */
	uint32_t mtu;	       /* 0: no limit */
};

struct port_config {
	uint16_t id;
	uint16_t bridge; /* ENGINE_NO_BRIDGE: in none, received frames are dropped */
	bool admin_up;
	bool learning;
	bool flood;		  /* gets flooded frames */
	uint16_t isolation_group; /* frames never pass between two ports of one group; 0: none */
	uint8_t vlan_mode;	  /* enum vlan_mode; counts where the bridge filters VLANs */
	uint8_t offload_policy;	  /* enum offload_policy */
	uint8_t polling;	  /* enum port_polling */
	uint16_t pvid;
	uint8_t cpu_count;		/* 0: workers are not pinned */
	uint16_t cpus[PORT_QUEUES_MAX]; /* worker of queue q is pinned to cpus[q % cpu_count] */
	uint64_t tagged[64];		/* bit v: VLAN v may pass tagged */
};

struct rules_set_config {
	uint16_t id;
	bool default_drop;
};

/* A set is asked at the ports of a bridge or at one port; the other one is RULE_NONE. */
struct rules_attach_config {
	uint16_t set;
	uint16_t bridge;
	uint16_t port;
	bool egress;
	int32_t order; /* sets of one stage come in the array's order; the caller has sorted them */
};

/* Everything about rules but the rules themselves, which engine_rules_update has. */
struct rules_config {
	const struct rules_set_config *sets;
	unsigned set_count;
	const struct rules_attach_config *attaches;
	unsigned attach_count;
	const struct policer_config *policers;
	unsigned policer_count;
};

struct engine_config {
	uint64_t generation; /* grows with each publish; shown in traces and status */
	const struct bridge_config *bridges;
	unsigned bridge_count;
	const struct port_config *ports;
	unsigned port_count;
};
/* cffi: end */
