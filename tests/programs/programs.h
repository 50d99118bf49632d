/* The programs; each gets what follows its name, ended by NULL. */
#pragma once

int send_main(char **argv);
int receive_main(char **argv);
int ping_main(char **argv);
int pong_main(char **argv);
int bridge_main(char **argv);
int fork_main(char **argv);
int exec_main(char **argv);
int inherited_main(char **argv);
int pass_main(char **argv);
int dup_main(char **argv);
int close_all_main(char **argv);
int mapped_main(char **argv);
int read_main(char **argv);
int threads_main(char **argv);
int signal_main(char **argv);
int edges_main(char **argv);
