"""The least that a gRPC server of grpcio does: `ModelInfer` on its aio server, which answers the bytes that it gets."""

import asyncio
import sys

import grpc.aio


async def serve(port: int) -> None:
    """Answer until the end of the process."""

    async def echo(message: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return message

    server = grpc.aio.server()
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
