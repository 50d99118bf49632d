/*
 * netmap's user ABI (API 14 and 15): what a program and the kernel module, or a program and another
 * user of the same rings, agree on. Written from the sizes, offsets and numbers of the module on
 * x86-64; every one of them is checked below by the compiler.
 *
 * A request is an ioctl NIOCCTRL on /dev/netmap with a struct nmreq_header that points to the body
 * of its type and to a list of options. After NETMAP_REQ_REGISTER the fd is bound to rings; mmap
 * of nr_memsize bytes shows the region they and their buffers are in:
 *
 *     netmap_if    at  region + nr_offset
 *     ring i       at  netmap_if + ring_ofs[i]: NIC tx, host tx, NIC rx, host rx; 0: not bound
 *     buffer b     at  ring + buf_ofs + b * nr_buf_size
 *
 * All numbers are in host order. Nothing here does anything; ring.h has the ring's arithmetic.
 */
#pragma once

#include <assert.h>
#include <linux/ioctl.h>
#include <stddef.h>
#include <stdint.h>

#define NETMAP_DEVICE "/dev/netmap"

enum {
	NETMAP_API = 14,
	NETMAP_MIN_API = 14,
	NETMAP_MAX_API = 15,
	NM_CACHE_ALIGN = 128,
	NETMAP_REQ_IFNAMSIZ = 64,  /* of nr_name, with its 0 */
	NETMAP_REQ_MAXSIZE = 4096, /* a request with all options */
	NETMAP_MAX_FRAGS = 64,	   /* slots of a frame */
	NETMAP_IFNAMSIZ = 16,
	NM_IFRDATA_LEN = 256,
	NETMAP_FIRST_BUFFER = 2 /* 0 and 1 are the module's own */
};

/* --- rings ----------------------------------------------------------------------------------- */

/* Flags of a slot. */
enum {
	NS_BUF_CHANGED = 0x01, /* buf_idx is not the one the slot had */
	NS_REPORT = 0x02,      /* tell when this slot was sent */
	NS_FORWARD = 0x04,     /* hand it to the other side (NIC or host) when it is released */
	NS_NO_LEARN = 0x08,    /* VALE: do not learn this frame's source */
	NS_INDIRECT = 0x10,    /* VALE, tx: the bytes are at ptr */
	NS_MOREFRAG = 0x20,    /* the frame goes on in the next slot */
	NS_TXMON = 0x40,       /* monitor: the frame was sent, not received */
	NS_PORT_SHIFT = 8,     /* VALE, tx: destination port + 1; rx: slots of the frame */
	NS_PORT_MASK = 0xff00
};

struct netmap_slot {
	uint32_t buf_idx;
	uint16_t len;
	uint16_t flags;
	uint64_t ptr; /* user address (NS_INDIRECT) or offset in the buffer (offset_mask) */
};

/* Flags of a ring. */
enum {
	NR_TIMESTAMP = 0x02, /* every sync writes ts */
	NR_FORWARD = 0x04    /* NS_FORWARD counts */
};

struct netmap_ring {
	int64_t buf_ofs; /* from the ring to buffer 0 of its region, bytes */
	uint32_t num_slots;
	uint32_t nr_buf_size; /* bytes */
	uint16_t ringid;
	uint16_t dir;  /* 1 tx, 0 rx, whatever the module's header says */
	uint32_t head; /* first slot the user owns */
	uint32_t cur;  /* wake-up point */
	uint32_t tail; /* first slot the other side owns */
	uint32_t flags;
	struct {
		int64_t tv_sec, tv_usec;
	} ts;
	uint64_t offset_mask; /* which bits of ptr say where in its buffer a frame begins */
	uint64_t buf_align;   /* of a frame's first byte, tx */
	uint8_t sem[128] __attribute__((aligned(NM_CACHE_ALIGN)));
	struct netmap_slot slot[];
};

enum { NI_PRIV_MEM = 0x1 };

struct netmap_if {
	char ni_name[NETMAP_IFNAMSIZ];
	uint32_t ni_version;
	uint32_t ni_flags; /* NI_PRIV_MEM */
	uint32_t ni_tx_rings;
	uint32_t ni_rx_rings;
	uint32_t
	    ni_bufs_head; /* first extra buffer; each begins with the number of the next, 0 ends */
	uint32_t ni_host_tx_rings; /* VALE ports and pipes say 1 here and 0 in the reply */
	uint32_t ni_host_rx_rings;
	uint32_t ni_spare1[3];
	int64_t ring_ofs[];
};

/* --- requests -------------------------------------------------------------------------------- */

enum netmap_reqtype {
	NETMAP_REQ_REGISTER = 1,
	NETMAP_REQ_PORT_INFO_GET,
	NETMAP_REQ_VALE_ATTACH,
	NETMAP_REQ_VALE_DETACH,
	NETMAP_REQ_VALE_LIST,
	NETMAP_REQ_PORT_HDR_SET,
	NETMAP_REQ_PORT_HDR_GET,
	NETMAP_REQ_VALE_NEWIF,
	NETMAP_REQ_VALE_DELIF,
	NETMAP_REQ_VALE_POLLING_ENABLE,
	NETMAP_REQ_VALE_POLLING_DISABLE,
	NETMAP_REQ_POOLS_INFO_GET,
	NETMAP_REQ_SYNC_KLOOP_START,
	NETMAP_REQ_SYNC_KLOOP_STOP,
	NETMAP_REQ_CSB_ENABLE
};

enum netmap_opt_reqtype {
	NETMAP_REQ_OPT_EXTMEM = 1,
	NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS,
	NETMAP_REQ_OPT_CSB,
	NETMAP_REQ_OPT_SYNC_KLOOP_MODE,
	NETMAP_REQ_OPT_OFFSETS,
	NETMAP_REQ_OPT_MAX
};

struct nmreq_header {
	uint16_t nr_version; /* NETMAP_API */
	uint16_t nr_reqtype; /* enum netmap_reqtype */
	uint32_t nr_reserved;
	char nr_name[NETMAP_REQ_IFNAMSIZ];
	uint64_t nr_options; /* address of the first struct nmreq_option, 0: none */
	uint64_t nr_body;    /* address of the type's struct */
};

/* cffi: begin */
/* nr_mode: which rings */
enum netmap_mode {
	NR_REG_DEFAULT = 0,
	NR_REG_ALL_NIC = 1,
	NR_REG_SW = 2,
	NR_REG_NIC_SW = 3,
	NR_REG_ONE_NIC = 4,
	NR_REG_PIPE_MASTER = 5, /* of old; names are used now */
	NR_REG_PIPE_SLAVE = 6,
	NR_REG_NULL = 7,
	NR_REG_ONE_SW = 8
};

/* nr_flags */
enum netmap_flag {
	NR_MONITOR_TX = 0x100,
	NR_MONITOR_RX = 0x200,
	NR_ZCOPY_MON = 0x400,
	NR_EXCLUSIVE = 0x800,
	NR_RX_RINGS_ONLY = 0x2000,
	NR_TX_RINGS_ONLY = 0x4000,
	NR_ACCEPT_VNET_HDR = 0x8000,
	NR_DO_RX_POLL = 0x10000,
	NR_NO_TX_POLL = 0x20000
};
/* cffi: end */

struct nmreq_register {
	uint64_t nr_offset;   /* out: netmap_if in the region */
	uint64_t nr_memsize;  /* out: of the region, bytes */
	uint32_t nr_tx_slots; /* in: wanted, 0: as it is; out: what there is; so the next ones */
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_host_tx_rings;
	uint16_t nr_host_rx_rings;
	uint16_t nr_mem_id; /* 1: the region of all hardware ports; in: 0 for any */
	uint16_t nr_ringid;
	uint32_t nr_mode;
	uint32_t nr_extra_bufs;
	uint64_t nr_flags;
};

struct nmreq_port_info_get {
	uint64_t nr_memsize;
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_host_tx_rings;
	uint16_t nr_host_rx_rings;
	uint16_t nr_mem_id;
	uint16_t pad[3];
};

struct nmreq_vale_attach {
	struct nmreq_register reg;
	uint32_t port_index;
	uint32_t pad1;
};

struct nmreq_vale_detach {
	uint32_t port_index;
	uint32_t pad1;
};

struct nmreq_vale_list {
	uint16_t nr_bridge_idx;
	uint16_t pad1;
	uint32_t nr_port_idx;
};

struct nmreq_port_hdr {
	uint32_t nr_hdr_len; /* bytes of virtio-net header in front of each frame: 0, 10, 12 */
	uint32_t pad1;
};

struct nmreq_vale_newif {
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_mem_id;
	uint16_t pad1;
};

enum { NETMAP_POLLING_MODE_SINGLE_CPU = 1, NETMAP_POLLING_MODE_MULTI_CPU = 2 };

struct nmreq_vale_polling {
	uint32_t nr_mode;
	uint32_t nr_first_cpu_id;
	uint32_t nr_num_polling_cpus;
	uint32_t pad1;
};

struct nmreq_pools_info {
	uint64_t nr_memsize;
	uint16_t nr_mem_id;
	uint16_t pad1[3];
	uint64_t nr_if_pool_offset;
	uint32_t nr_if_pool_objtotal;
	uint32_t nr_if_pool_objsize;
	uint64_t nr_ring_pool_offset;
	uint32_t nr_ring_pool_objtotal;
	uint32_t nr_ring_pool_objsize;
	uint64_t nr_buf_pool_offset;
	uint32_t nr_buf_pool_objtotal;
	uint32_t nr_buf_pool_objsize;
};

struct nmreq_sync_kloop_start {
	uint32_t sleep_us;
	uint32_t pad1;
};

struct nm_csb_atok {
	uint32_t head;
	uint32_t cur;
	uint32_t appl_need_kick;
	uint32_t sync_flags;
	uint32_t pad[12];
};

struct nm_csb_ktoa {
	uint32_t hwcur;
	uint32_t hwtail;
	uint32_t kern_need_kick;
	uint32_t pad[13];
};

/* --- options of a request -------------------------------------------------------------------- */

struct nmreq_option {
	uint64_t nro_next; /* address of the next one, 0: none */
	uint32_t nro_reqtype;
	uint32_t nro_status; /* out: 0 or an errno */
	uint64_t nro_size;   /* of options with an array */
};

struct nmreq_opt_sync_kloop_eventfds {
	struct nmreq_option nro_opt;
	struct {
		int32_t ioeventfd;
		int32_t irqfd;
	} eventfds[];
};

enum { NM_OPT_SYNC_KLOOP_DIRECT_TX = 1, NM_OPT_SYNC_KLOOP_DIRECT_RX = 2 };

struct nmreq_opt_sync_kloop_mode {
	struct nmreq_option nro_opt;
	uint32_t mode;
};

struct nmreq_opt_extmem {
	struct nmreq_option nro_opt;
	uint64_t nro_usrptr; /* address of the memory */
	struct nmreq_pools_info nro_info;
};

struct nmreq_opt_csb {
	struct nmreq_option nro_opt;
	uint64_t csb_atok;
	uint64_t csb_ktoa;
};

struct nmreq_opt_offsets {
	struct nmreq_option nro_opt;
	uint64_t nro_max_offset;
	uint64_t nro_initial_offset;
	uint32_t nro_offset_bits; /* 0: all of ptr */
	uint32_t nro_tx_align;
	uint64_t nro_min_gap;
};

/* --- the requests of old: API 11 to 13's, which the module still answers -------------------- */

enum { /* nr_ringid */
       NETMAP_HW_RING = 0x4000,
       NETMAP_SW_RING = 0x2000,
       NETMAP_RING_MASK = 0x0fff,
       NETMAP_NO_TX_POLL = 0x1000,
       NETMAP_DO_RX_POLL = 0x8000
};

enum { /* nr_cmd */
       NETMAP_BDG_ATTACH = 1,
       NETMAP_BDG_DETACH,
       NETMAP_BDG_REGOPS,
       NETMAP_BDG_LIST,
       NETMAP_BDG_VNET_HDR,
       NETMAP_BDG_NEWIF,
       NETMAP_BDG_DELIF,
       NETMAP_PT_HOST_CREATE,
       NETMAP_PT_HOST_DELETE,
       NETMAP_BDG_POLLING_ON,
       NETMAP_BDG_POLLING_OFF,
       NETMAP_VNET_HDR_GET
};

enum { NETMAP_BDG_HOST = 1, NR_REG_MASK = 0x0f };

struct nmreq {
	char nr_name[NETMAP_IFNAMSIZ];
	uint32_t nr_version;
	uint32_t nr_offset;
	uint32_t nr_memsize;
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_ringid;
	uint16_t nr_cmd;
	uint16_t nr_arg1;
	uint16_t nr_arg2; /* memory region */
	uint32_t nr_arg3; /* extra buffers */
	uint32_t nr_flags;
	uint32_t spare2[1];
};

struct nm_ifreq {
	char nifr_name[NETMAP_IFNAMSIZ];
	char data[NM_IFRDATA_LEN];
};

#define NIOCGINFO _IOWR('i', 145, struct nmreq)
#define NIOCREGIF _IOWR('i', 146, struct nmreq)
#define NIOCTXSYNC _IO('i', 148)
#define NIOCRXSYNC _IO('i', 149)
#define NIOCCONFIG _IOWR('i', 150, struct nm_ifreq)
#define NIOCCTRL _IOWR('i', 151, struct nmreq_header)

/* --- every size and offset ------------------------------------------------------------------- */

#define NETMAP_SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes), #type)
#define NETMAP_FIELD(type, field, offset)                                                          \
	static_assert(offsetof(struct type, field) == (offset), #type "." #field)

NETMAP_SIZE(nmreq_header, 88);
NETMAP_FIELD(nmreq_header, nr_version, 0);
NETMAP_FIELD(nmreq_header, nr_reqtype, 2);
NETMAP_FIELD(nmreq_header, nr_reserved, 4);
NETMAP_FIELD(nmreq_header, nr_name, 8);
NETMAP_FIELD(nmreq_header, nr_options, 72);
NETMAP_FIELD(nmreq_header, nr_body, 80);
NETMAP_SIZE(nmreq_register, 56);
NETMAP_FIELD(nmreq_register, nr_offset, 0);
NETMAP_FIELD(nmreq_register, nr_memsize, 8);
NETMAP_FIELD(nmreq_register, nr_tx_slots, 16);
NETMAP_FIELD(nmreq_register, nr_rx_slots, 20);
NETMAP_FIELD(nmreq_register, nr_tx_rings, 24);
NETMAP_FIELD(nmreq_register, nr_rx_rings, 26);
NETMAP_FIELD(nmreq_register, nr_host_tx_rings, 28);
NETMAP_FIELD(nmreq_register, nr_host_rx_rings, 30);
NETMAP_FIELD(nmreq_register, nr_mem_id, 32);
NETMAP_FIELD(nmreq_register, nr_ringid, 34);
NETMAP_FIELD(nmreq_register, nr_mode, 36);
NETMAP_FIELD(nmreq_register, nr_extra_bufs, 40);
NETMAP_FIELD(nmreq_register, nr_flags, 48);
NETMAP_SIZE(nmreq_port_info_get, 32);
NETMAP_FIELD(nmreq_port_info_get, nr_memsize, 0);
NETMAP_FIELD(nmreq_port_info_get, nr_tx_slots, 8);
NETMAP_FIELD(nmreq_port_info_get, nr_rx_slots, 12);
NETMAP_FIELD(nmreq_port_info_get, nr_tx_rings, 16);
NETMAP_FIELD(nmreq_port_info_get, nr_rx_rings, 18);
NETMAP_FIELD(nmreq_port_info_get, nr_host_tx_rings, 20);
NETMAP_FIELD(nmreq_port_info_get, nr_host_rx_rings, 22);
NETMAP_FIELD(nmreq_port_info_get, nr_mem_id, 24);
NETMAP_FIELD(nmreq_port_info_get, pad, 26);
NETMAP_SIZE(nmreq_vale_attach, 64);
NETMAP_FIELD(nmreq_vale_attach, reg, 0);
NETMAP_FIELD(nmreq_vale_attach, port_index, 56);
NETMAP_FIELD(nmreq_vale_attach, pad1, 60);
NETMAP_SIZE(nmreq_vale_detach, 8);
NETMAP_FIELD(nmreq_vale_detach, port_index, 0);
NETMAP_FIELD(nmreq_vale_detach, pad1, 4);
NETMAP_SIZE(nmreq_vale_list, 8);
NETMAP_FIELD(nmreq_vale_list, nr_bridge_idx, 0);
NETMAP_FIELD(nmreq_vale_list, pad1, 2);
NETMAP_FIELD(nmreq_vale_list, nr_port_idx, 4);
NETMAP_SIZE(nmreq_port_hdr, 8);
NETMAP_FIELD(nmreq_port_hdr, nr_hdr_len, 0);
NETMAP_FIELD(nmreq_port_hdr, pad1, 4);
NETMAP_SIZE(nmreq_vale_newif, 16);
NETMAP_FIELD(nmreq_vale_newif, nr_tx_slots, 0);
NETMAP_FIELD(nmreq_vale_newif, nr_rx_slots, 4);
NETMAP_FIELD(nmreq_vale_newif, nr_tx_rings, 8);
NETMAP_FIELD(nmreq_vale_newif, nr_rx_rings, 10);
NETMAP_FIELD(nmreq_vale_newif, nr_mem_id, 12);
NETMAP_FIELD(nmreq_vale_newif, pad1, 14);
NETMAP_SIZE(nmreq_vale_polling, 16);
NETMAP_FIELD(nmreq_vale_polling, nr_mode, 0);
NETMAP_FIELD(nmreq_vale_polling, nr_first_cpu_id, 4);
NETMAP_FIELD(nmreq_vale_polling, nr_num_polling_cpus, 8);
NETMAP_FIELD(nmreq_vale_polling, pad1, 12);
NETMAP_SIZE(nmreq_pools_info, 64);
NETMAP_FIELD(nmreq_pools_info, nr_memsize, 0);
NETMAP_FIELD(nmreq_pools_info, nr_mem_id, 8);
NETMAP_FIELD(nmreq_pools_info, pad1, 10);
NETMAP_FIELD(nmreq_pools_info, nr_if_pool_offset, 16);
NETMAP_FIELD(nmreq_pools_info, nr_if_pool_objtotal, 24);
NETMAP_FIELD(nmreq_pools_info, nr_if_pool_objsize, 28);
NETMAP_FIELD(nmreq_pools_info, nr_ring_pool_offset, 32);
NETMAP_FIELD(nmreq_pools_info, nr_ring_pool_objtotal, 40);
NETMAP_FIELD(nmreq_pools_info, nr_ring_pool_objsize, 44);
NETMAP_FIELD(nmreq_pools_info, nr_buf_pool_offset, 48);
NETMAP_FIELD(nmreq_pools_info, nr_buf_pool_objtotal, 56);
NETMAP_FIELD(nmreq_pools_info, nr_buf_pool_objsize, 60);
NETMAP_SIZE(nmreq_sync_kloop_start, 8);
NETMAP_FIELD(nmreq_sync_kloop_start, sleep_us, 0);
NETMAP_FIELD(nmreq_sync_kloop_start, pad1, 4);
NETMAP_SIZE(nmreq_option, 24);
NETMAP_FIELD(nmreq_option, nro_next, 0);
NETMAP_FIELD(nmreq_option, nro_reqtype, 8);
NETMAP_FIELD(nmreq_option, nro_status, 12);
NETMAP_FIELD(nmreq_option, nro_size, 16);
NETMAP_SIZE(nmreq_opt_sync_kloop_eventfds, 24);
NETMAP_FIELD(nmreq_opt_sync_kloop_eventfds, nro_opt, 0);
NETMAP_FIELD(nmreq_opt_sync_kloop_eventfds, eventfds, 24);
NETMAP_SIZE(nmreq_opt_sync_kloop_mode, 32);
NETMAP_FIELD(nmreq_opt_sync_kloop_mode, nro_opt, 0);
NETMAP_FIELD(nmreq_opt_sync_kloop_mode, mode, 24);
NETMAP_SIZE(nmreq_opt_extmem, 96);
NETMAP_FIELD(nmreq_opt_extmem, nro_opt, 0);
NETMAP_FIELD(nmreq_opt_extmem, nro_usrptr, 24);
NETMAP_FIELD(nmreq_opt_extmem, nro_info, 32);
NETMAP_SIZE(nmreq_opt_csb, 40);
NETMAP_FIELD(nmreq_opt_csb, nro_opt, 0);
NETMAP_FIELD(nmreq_opt_csb, csb_atok, 24);
NETMAP_FIELD(nmreq_opt_csb, csb_ktoa, 32);
NETMAP_SIZE(nmreq_opt_offsets, 56);
NETMAP_FIELD(nmreq_opt_offsets, nro_opt, 0);
NETMAP_FIELD(nmreq_opt_offsets, nro_max_offset, 24);
NETMAP_FIELD(nmreq_opt_offsets, nro_initial_offset, 32);
NETMAP_FIELD(nmreq_opt_offsets, nro_offset_bits, 40);
NETMAP_FIELD(nmreq_opt_offsets, nro_tx_align, 44);
NETMAP_FIELD(nmreq_opt_offsets, nro_min_gap, 48);
NETMAP_SIZE(nm_csb_atok, 64);
NETMAP_FIELD(nm_csb_atok, head, 0);
NETMAP_FIELD(nm_csb_atok, cur, 4);
NETMAP_FIELD(nm_csb_atok, appl_need_kick, 8);
NETMAP_FIELD(nm_csb_atok, sync_flags, 12);
NETMAP_FIELD(nm_csb_atok, pad, 16);
NETMAP_SIZE(nm_csb_ktoa, 64);
NETMAP_FIELD(nm_csb_ktoa, hwcur, 0);
NETMAP_FIELD(nm_csb_ktoa, hwtail, 4);
NETMAP_FIELD(nm_csb_ktoa, kern_need_kick, 8);
NETMAP_FIELD(nm_csb_ktoa, pad, 12);
NETMAP_SIZE(netmap_if, 56);
NETMAP_FIELD(netmap_if, ni_name, 0);
NETMAP_FIELD(netmap_if, ni_version, 16);
NETMAP_FIELD(netmap_if, ni_flags, 20);
NETMAP_FIELD(netmap_if, ni_tx_rings, 24);
NETMAP_FIELD(netmap_if, ni_rx_rings, 28);
NETMAP_FIELD(netmap_if, ni_bufs_head, 32);
NETMAP_FIELD(netmap_if, ni_host_tx_rings, 36);
NETMAP_FIELD(netmap_if, ni_host_rx_rings, 40);
NETMAP_FIELD(netmap_if, ni_spare1, 44);
NETMAP_FIELD(netmap_if, ring_ofs, 56);
NETMAP_SIZE(netmap_ring, 256);
NETMAP_FIELD(netmap_ring, buf_ofs, 0);
NETMAP_FIELD(netmap_ring, num_slots, 8);
NETMAP_FIELD(netmap_ring, nr_buf_size, 12);
NETMAP_FIELD(netmap_ring, ringid, 16);
NETMAP_FIELD(netmap_ring, dir, 18);
NETMAP_FIELD(netmap_ring, head, 20);
NETMAP_FIELD(netmap_ring, cur, 24);
NETMAP_FIELD(netmap_ring, tail, 28);
NETMAP_FIELD(netmap_ring, flags, 32);
NETMAP_FIELD(netmap_ring, ts, 40);
NETMAP_FIELD(netmap_ring, offset_mask, 56);
NETMAP_FIELD(netmap_ring, buf_align, 64);
NETMAP_FIELD(netmap_ring, sem, 128);
NETMAP_FIELD(netmap_ring, slot, 256);
NETMAP_SIZE(netmap_slot, 16);
NETMAP_FIELD(netmap_slot, buf_idx, 0);
NETMAP_FIELD(netmap_slot, len, 4);
NETMAP_FIELD(netmap_slot, flags, 6);
NETMAP_FIELD(netmap_slot, ptr, 8);
NETMAP_SIZE(nmreq, 60);
NETMAP_FIELD(nmreq, nr_name, 0);
NETMAP_FIELD(nmreq, nr_version, 16);
NETMAP_FIELD(nmreq, nr_offset, 20);
NETMAP_FIELD(nmreq, nr_memsize, 24);
NETMAP_FIELD(nmreq, nr_tx_slots, 28);
NETMAP_FIELD(nmreq, nr_rx_slots, 32);
NETMAP_FIELD(nmreq, nr_tx_rings, 36);
NETMAP_FIELD(nmreq, nr_rx_rings, 38);
NETMAP_FIELD(nmreq, nr_ringid, 40);
NETMAP_FIELD(nmreq, nr_cmd, 42);
NETMAP_FIELD(nmreq, nr_arg1, 44);
NETMAP_FIELD(nmreq, nr_arg2, 46);
NETMAP_FIELD(nmreq, nr_arg3, 48);
NETMAP_FIELD(nmreq, nr_flags, 52);
NETMAP_FIELD(nmreq, spare2, 56);
NETMAP_SIZE(nm_ifreq, 272);
NETMAP_FIELD(nm_ifreq, nifr_name, 0);
NETMAP_FIELD(nm_ifreq, data, 16);

#undef NETMAP_SIZE
#undef NETMAP_FIELD
