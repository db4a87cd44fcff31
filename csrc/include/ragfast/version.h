/* The version of the library. */
#ifndef RAGFAST_VERSION_H
#define RAGFAST_VERSION_H

#define RAGFAST_VERSION "0.1.0"

#endif
